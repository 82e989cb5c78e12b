"""Slow references in NumPy, from the papers' letters; they import nothing of forwardly or torch."""
