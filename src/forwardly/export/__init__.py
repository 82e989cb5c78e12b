"""Training steps taken elsewhere: as ONNX files that run where only inference does.

May import ``training`` and what is below it.
"""
