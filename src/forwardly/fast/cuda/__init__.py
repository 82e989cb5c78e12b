"""Training steps on CUDA: captured as graphs, weights moved by one kernel."""
