"""What is run and recorded: settings, jobs, records, statistics, figures and reports.

May import ``audit`` and what is below it.
"""
