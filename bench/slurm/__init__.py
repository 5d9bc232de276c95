"""What the executor for Slurm clusters consists of beside its pool."""
