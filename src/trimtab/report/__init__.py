"""The answer for people: `report.html`, and the tables and progress in the terminal."""

from trimtab.report.attention import attention as attention
from trimtab.report.compare import Comparison as Comparison
from trimtab.report.compare import comparison_table as comparison_table
from trimtab.report.compare import write_comparison as write_comparison
from trimtab.report.details import LayerRow as LayerRow
from trimtab.report.details import ReportDetails as ReportDetails
from trimtab.report.html import render_report as render_report
from trimtab.report.html import report as report
from trimtab.report.html import result_of as result_of
from trimtab.report.html import write_report as write_report
from trimtab.report.inspection import inspection as inspection
from trimtab.report.inspection import inspection_tables as inspection_tables
from trimtab.report.sensitivity import sensitivity_of as sensitivity_of
from trimtab.report.summary import LimitRow as LimitRow
from trimtab.report.summary import QuantityRow as QuantityRow
from trimtab.report.summary import limit_rows as limit_rows
from trimtab.report.summary import quantity_rows as quantity_rows
from trimtab.report.summary import value_of as value_of
from trimtab.report.terminal import Stages as Stages
from trimtab.report.terminal import before_after as before_after
from trimtab.report.terminal import behaviour_lines as behaviour_lines
from trimtab.report.terminal import stages as stages
from trimtab.report.weights import filters as filters
from trimtab.report.weights import histograms as histograms
from trimtab.report.why import why_lines as why_lines
