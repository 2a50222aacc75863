"""Makes patients who do not exist, with the true probability of each of their labels.
The demo, the tests and the benchmarks run on them; real data never passes through here.
Start reading in patients.py; rows.py and tables.py write what it generates."""
