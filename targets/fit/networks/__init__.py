"""Networks with random weights that fits, tests and benchmarks share; each family a module of builders."""
