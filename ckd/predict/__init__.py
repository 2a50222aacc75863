"""Uses a finished student: predicts the run's own visits or any others, exports it, serves it.

Start in scorer.py, which turns texts into figures, and in modelfolder.py, which checks the folder that it loads.
Export is bundle.py and onnxfile.py, the tables for meds-evaluation are meds.py, and serving/ is the HTTP server.
"""
