"""`python -m jobs COMMAND …`: the `ckd` command where it is not installed, such as in a job of a Ray cluster."""

from jobs.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
