"""Turns a hospital's tables or events into a cohort: next-visit pairs with text, labels, splits and a card.
Every step works on one partition of whole subjects, so memory does not grow with the number of visits.
Start reading in ingest.py for the steps, in pairs.py for the rules, in kinds.py for the sources."""
