"""The .btn file: container, payload, entropy coding, editing, salvage. No torch."""
