"""Compiled kernels: arrays in, arrays out. They validate nothing, raise nothing and import nothing else of the package."""
