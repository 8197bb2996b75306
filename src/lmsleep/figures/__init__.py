"""The figures: what the stages of dvc.yaml run."""
