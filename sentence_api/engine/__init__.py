"""The model artifact, and the engines that compute vectors from token ids."""
