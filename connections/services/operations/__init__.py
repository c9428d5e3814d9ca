"""Operations: checks, metrics, daily figures, backups, retention and key rotation."""
