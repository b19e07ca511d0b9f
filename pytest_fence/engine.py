"""The one door to the engine: all that this package uses of fence_core to put a fence up.

Imported only when a fence may be wanted, and each name with what it needs only when it is used. Tests that need no
kernel replace the functions about processes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from fence_core.errors import FenceError as FenceError
from fence_core.errors import FenceUnavailable as FenceUnavailable
from fence_core.errors import PolicyError as PolicyError
from fence_core.errors import Problem as Problem

if TYPE_CHECKING:
    from fence_core.events.model import Violation as Violation
    from fence_core.launcher.debugger import Debugger as Debugger
    from fence_core.launcher.debugger import attached as attached
    from fence_core.launcher.early_modules import protect_early_modules as protect_early_modules
    from fence_core.launcher.early_modules import trusted_path as trusted_path
    from fence_core.launcher.fork import fence_this_process as fence_this_process
    from fence_core.launcher.handle import Fence as Fence
    from fence_core.launcher.join import maybe_join as maybe_join
    from fence_core.launcher.learning import BANNER as BANNER
    from fence_core.launcher.learning import EditError as EditError
    from fence_core.launcher.learning import LearningReport as LearningReport
    from fence_core.launcher.learning import Order as Order
    from fence_core.launcher.learning import learning_config as learning_config
    from fence_core.launcher.needed import Kept as Kept
    from fence_core.launcher.needed import check_needed as check_needed
    from fence_core.launcher.obstacles import obstacles as obstacles
    from fence_core.launcher.plan import Host as Host
    from fence_core.launcher.plan import Reports as Reports
    from fence_core.launcher.remote import Given as Given
    from fence_core.launcher.remote import order_of as order_of
    from fence_core.launcher.report_files import unwritable as unwritable
    from fence_core.launcher.respawn import respawn_fenced as respawn_fenced
    from fence_core.launcher.run_facts import policy_digest as policy_digest
    from fence_core.launcher.service import Service as Service
    from fence_core.launcher.service import start_service as start_service
    from fence_core.launcher.set_aside import keep_set_aside as keep_set_aside
    from fence_core.launcher.supervise import Ends as Ends
    from fence_core.launcher.withhold import variables_denied as variables_denied
    from fence_core.policy.kinds import leads_to_file as leads_to_file
    from fence_core.policy.model import Config as Config
    from fence_core.policy.model import Policy as Policy
    from fence_core.policy.model import Settings as Settings
    from fence_core.policy.model import Source as Source
    from fence_core.policy.paths import escape as escape
    from fence_core.policy.reports import parse_report as parse_report
    from fence_core.policy.reports import report_parts as report_parts
    from fence_core.policy.sources.load import config_in as config_in
    from fence_core.policy.sources.load import find_config as find_config
    from fence_core.policy.sources.load import find_raw as find_raw
    from fence_core.policy.sources.load import find_settings as find_settings
    from fence_core.policy.sources.templates import TemplateContext as TemplateContext
    from fence_core.policy.sources.validate import parse_marker as parse_marker

_NAMES = {
    "launcher.debugger": ("Debugger", "attached"),
    "launcher.early_modules": ("protect_early_modules", "trusted_path"),
    "launcher.fork": ("fence_this_process",),
    "launcher.join": ("maybe_join",),
    "launcher.learning": ("BANNER", "EditError", "LearningReport", "Order", "learning_config"),
    "launcher.needed": ("Kept", "check_needed"),
    "launcher.obstacles": ("obstacles",),
    "launcher.plan": ("Host", "Reports"),
    "launcher.remote": ("Given", "order_of"),
    "launcher.report_files": ("unwritable",),
    "launcher.respawn": ("respawn_fenced",),
    "launcher.run_facts": ("policy_digest",),
    "launcher.service": ("Service", "start_service"),
    "launcher.set_aside": ("keep_set_aside",),
    "launcher.supervise": ("Ends",),
    "launcher.withhold": ("variables_denied",),
    "policy.kinds": ("leads_to_file",),
    "policy.model": ("Config", "Policy", "Settings", "Source"),
    "policy.paths": ("escape",),
    "policy.reports": ("parse_report", "report_parts"),
    "policy.sources.load": ("config_in", "find_config", "find_raw", "find_settings"),
    "policy.sources.templates": ("TemplateContext",),
    "policy.sources.validate": ("parse_marker",),
}


def __getattr__(name: str) -> object:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f"fence_core.{module}"), name)
    raise AttributeError(name)
