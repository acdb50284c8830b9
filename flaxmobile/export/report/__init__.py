"""A report on what float16 and int8 cost a model: accuracy, size, latency, and the error of each activation."""

from flaxmobile.export.report.making import check_report, quantize_report
from flaxmobile.export.report.results import ActivationError, ExportedFile, QuantizeReport

__all__ = ['ActivationError', 'ExportedFile', 'QuantizeReport', 'check_report', 'quantize_report']
