"""One job on one worker: the stream, its failures, its cancellation."""
