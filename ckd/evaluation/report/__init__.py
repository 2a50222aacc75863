"""Makes report.html of a finished run: one offline page for clinicians.

Its numbers are those of metrics.json; its curves are drawn from the stored predictions.
Start in page.py, then content.py: what is read, and figures.py: what is drawn.
"""
