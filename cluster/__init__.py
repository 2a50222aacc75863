"""The machines: Ray sessions, pools, training groups. Imports no torch and nothing of ckd; jobs hands it what to run."""
