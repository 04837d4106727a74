"""Microcontrollers: instructions of CMSIS-NN counted under an emulator, and what they cost on measured boards."""
