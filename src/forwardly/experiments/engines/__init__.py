"""Where an experiment's runs are trained: the implementations of ``jobs.Engine``."""
