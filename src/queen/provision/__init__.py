"""What has to be there before a job can run: workers started on hives, hives started on machines."""
