"""Audio files, pipes and blocks of samples. No torch."""
