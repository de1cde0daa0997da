"""The networks: waveform to latent to codes and back. No files, no bytes."""
