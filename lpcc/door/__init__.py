"""Behind the door: how ONNX models become graphs and graphs become models. Use it through `lpcc.graph`."""
