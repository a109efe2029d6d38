"""Every format that weights come in: Orbax checkpoints, .safetensors, files of Keras and of PyTorch."""
