"""What the executor for Ray clusters consists of beside its pool."""
