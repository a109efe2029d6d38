"""Every format that weights come in: Orbax, .safetensors, and files of Keras and PyTorch."""
