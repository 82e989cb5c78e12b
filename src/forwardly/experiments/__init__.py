"""What is run and recorded: settings, jobs, records, statistics, figures and reports.

May import all but ``commands``, ``benchmarks`` and ``cli``.
"""
