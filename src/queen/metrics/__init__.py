"""What the queen counts and measures, for those who watch her: Prometheus by /metrics, a collector by OTLP."""
