"""What people and pipes see: tables, JSON, progress, words for times and sizes, errors with their remedy."""
