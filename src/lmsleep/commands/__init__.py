"""Commands around training. Stages depend on fit.py and parser.py alone, which read the settings of a run."""
