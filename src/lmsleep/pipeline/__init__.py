"""The stages of dvc.yaml: held-out data, training, evaluation, tables, figures."""
