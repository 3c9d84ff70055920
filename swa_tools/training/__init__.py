"""Fine-tuning: schedules, the loop, the run directory, resuming."""
