"""Operations: health checks, metrics and retention."""
