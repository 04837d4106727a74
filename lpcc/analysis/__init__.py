"""Analyses: functions of a graph, cached by the context and dropped when a pass changes the graph."""
