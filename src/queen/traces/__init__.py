"""What was done for each job, and when: kept for a while, and exported where somebody collects."""
