"""One data module for all tasks."""

from lmsleep.data.module import RowsDataModule

__all__ = ["RowsDataModule"]
