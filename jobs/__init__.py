"""One thin module per stage (`python -m jobs.embed …`) and the `ckd` command: they marry ckd and cluster."""
