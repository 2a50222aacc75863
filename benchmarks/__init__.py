"""What the project costs and what it brings, measured: each module is a command that writes a file into results/.
The folders are named as the wings of the product; tests of a benchmark lie beside it. Start reading in report.py.
"""
