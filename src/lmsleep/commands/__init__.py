"""Commands around training. Only fit.py, which reads the settings of a run, can change a weight of a stage."""
