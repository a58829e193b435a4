"""Kernels are kept on disk where there is a place for it, and work where there is none."""

import numba

from compression_gate.codec import compiling


def test_without_a_folder_to_keep_them_in_kernels_are_compiled_anew(monkeypatch):
    real, asked = numba.njit, []

    class Numba:
        """Stands for numba where neither the package's folder nor the user's can be written to."""

        @staticmethod
        def njit(**options):
            asked.append(options)
            if options.get("cache"):
                raise RuntimeError("cannot cache function: no locator available")
            return real(**options)

    monkeypatch.setattr(compiling, "numba", Numba)
    assert compiling.compiled(lambda number: number + 1)(2) == 3
    assert [options.get("cache", False) for options in asked] == [True, False]
    assert all(options["nogil"] for options in asked)
