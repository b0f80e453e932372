"""Command lines: train, evaluate, play. Each is a short script over `trainers`; nothing else lives here."""
