"""The commands of `ckd`, one thin file per command: each joins what ckd computes with the machines of cluster.
`python -m jobs embed` is the same as `ckd embed`, for places where that is not installed.
Start reading in commands.py, which lists them, then in pipeline.py, which runs the stages in order."""
