"""What is known of tools: the model registry, and the tool records of a store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from fluxai.core.errors import NotFound, UnknownModel
from fluxai.core.ledger import DEFAULT_OUTPUT_TOKENS
from fluxai.core.money import to_nano
from fluxai.core.windows import MAX_US
from fluxai.costs.unpriced import unpriced
from fluxai.models.selector import Called, ModelSelector
from fluxai.models.standins import able_stand_ins, cheapest_able
from fluxai.policy.compile import PricedTool

if TYPE_CHECKING:
    from fluxai.costs.book import PriceBook
    from fluxai.costs.prices import Rates
    from fluxai.models.model import Model
    from fluxai.models.registry import ModelRegistry
    from fluxai.policy.records import Policy, Tool

_REMEMBERED_MAX = 4_096
_PATTERNS_SHOWN = 8
_KINDS = frozenset({"text", "embedding", "image_generation", "audio"})


class ToolCatalog:
    """Prices tools by the unit and models by the token, and finds what can stand in for them."""

    def __init__(self, registry: ModelRegistry, tools: Mapping[str, Tool]) -> None:
        self._registry = registry
        self._tools = tools
        self._ids: dict[str, str] = {}
        self._stand_ins: dict[tuple[str, bool, int, str | None, str | None], str | None] = {}
        self._cheaper: dict[str, list[str]] = {}
        #: Model ids under which tool records exist, to the records' own ids.
        self._recorded: dict[str, str] | None = None

    def canonical(self, tool_id: str) -> str:
        """Return the id under which a tool is counted, whatever spelling is used.

        That of its record where it has one, else the registry's, else the one given.
        """
        known = self._ids.get(tool_id)
        if known is None:
            known = tool_id
            if tool_id not in self._tools:
                known = self._model_id(tool_id) or tool_id
                known = self._record_ids().get(known, known)
            _remember(self._ids, tool_id, known)
        return known

    def _model_id(self, tool_id: str) -> str | None:
        try:
            return self._registry.get(tool_id).id
        except UnknownModel:
            return None

    def _record_ids(self) -> dict[str, str]:
        if self._recorded is None:
            self._recorded = {}
            for tool_id in sorted(self._tools):
                model_id = self._model_id(tool_id)
                if model_id is not None:
                    self._recorded.setdefault(model_id, tool_id)
        return self._recorded

    def priced(self, tool_id: str, at_us: int) -> PricedTool:
        """Return a tool's prices.

        Raises:
            UnknownModel: It is neither a tool with a record nor a model with a price, or is
                disabled, or the tenant may not use it.
        """
        tool = self._tools.get(self.canonical(tool_id))
        try:
            rates = self._registry.rates(tool_id, at_us)
            model = self._registry.get(tool_id)
        except UnknownModel:
            if tool is None:
                raise
            return self._unit_priced(tool)
        if not model.enabled:
            self._check_allowed(model.id, model.provider)
            raise UnknownModel(f"model {tool_id!r} is disabled; enable it or ask for another")
        output_max = 0 if not rates.output_rate(0) else rates.max_output or DEFAULT_OUTPUT_TOKENS
        return PricedTool(
            id=tool.id if tool is not None else model.id,
            model=tool_id,
            rates=rates,
            unit_rate=None if tool is None else tool.unit_rate(),
            max_output=output_max,
            premium=(model.tier if tool is None else tool.tier) == "premium",
            until_us=rates.valid_until_us,
        )

    def stated(
        self, tool_id: str, policy: Policy | None, unknown: UnknownModel, at_us: int
    ) -> PricedTool:
        """Return what a policy says that a model costs which has no price.

        Raises:
            UnknownModel: There is no such policy, or the model is known and disabled, or the
                tenant may not use it.
        """
        if policy is None or self._model_id(tool_id) is not None:
            raise unknown
        self._check_allowed(tool_id)
        rates = stated_rates(policy, unknown, tool_id, at_us, self._registry.book)
        return PricedTool(
            id=self.canonical(tool_id),
            model=tool_id,
            rates=rates,
            unit_rate=None,
            max_output=DEFAULT_OUTPUT_TOKENS,
            premium=False,
            until_us=MAX_US,
        )

    def tool(self, tool_id: str) -> PricedTool:
        """Return a tool that is paid for by the unit.

        Raises:
            NotFound: No such tool has a record.
            UnknownModel: It is a model that the tenant may not use.
        """
        tool = self._tools.get(self.canonical(tool_id))
        if tool is None:
            if self._model_id(tool_id) is not None:
                raise NotFound(
                    f"tool: {tool_id!r:.120} is a model, which is paid for by the token: ask for it "
                    f"with model=, or give it a price per unit with governor.tools.put(Tool(…))"
                )
            known = ", ".join(sorted(self._tools)[:8]) or "none yet"
            raise NotFound(
                f"tool: {tool_id!r:.120} has no price per unit; register it with "
                f"governor.tools.put(Tool(id=…, cost_per_unit='0.001')). Registered: {known}"
            )
        return self._unit_priced(tool)

    def _unit_priced(self, tool: Tool) -> PricedTool:
        if tool.category == "llm":
            self._check_allowed(tool.id)
        return PricedTool(
            id=tool.id,
            model=tool.id if tool.category == "llm" else None,
            rates=None,
            unit_rate=tool.unit_rate(),
            max_output=0,
            premium=tool.tier == "premium",
            until_us=MAX_US,
        )

    def _check_allowed(self, model_id: str, provider: str | None = None) -> None:
        if not self._registry.allows(model_id, provider):
            patterns = self._registry.allowed or ()
            shown = ", ".join(patterns[:_PATTERNS_SHOWN]) or "none"
            more = ", …" if len(patterns) > _PATTERNS_SHOWN else ""
            raise UnknownModel(
                f"model {model_id!r:.120} is not among the tenant's allowed_models "
                f"({shown}{more}); ask for one that is, or add it "
                f"to the tenant's record"
            )

    def any(self, tool_id: str, at_us: int) -> PricedTool:
        """Return a model's or a tool's prices, whichever it is.

        Raises:
            NotFound: It is neither.
            UnknownModel: It is a model that may not be used.
        """
        try:
            return self.priced(tool_id, at_us)
        except UnknownModel:
            if self._model_id(tool_id) is not None:
                raise
            return self.tool(tool_id)

    def unpriced(self, tool_id: str) -> PricedTool:
        """Return a tool for money that was spent already, whatever it would cost now."""
        return PricedTool(self.canonical(tool_id), tool_id, None, None, 0, False, MAX_US)

    def unit(self, tool_id: str) -> Literal["requests", "tokens"]:
        """Say what a tool's units are: tokens, or requests, also where it has no record."""
        tool = self._tools.get(self.canonical(tool_id))
        return "requests" if tool is None else tool.unit

    # -- stand-ins --------------------------------------------------------------------------

    def fallback(
        self, tool: PricedTool, named: str | None, at_us: int, level: str | None = None
    ) -> PricedTool | None:
        """Return what can stand in for a tool: able, and never dearer; None where nothing can.

        Without a name it is the cheapest; with a `level` of complexity, the one that it calls for.
        """
        if named is None and tool.id in self._tools:
            named = self._tools[tool.id].fallback_tool_id
        key = (tool.id, tool.rates is None, tool.until_us, named, level)
        if key in self._stand_ins:
            found = self._stand_ins[key]
        else:
            found = self._named(tool, named, at_us) if named else self._picked(tool, level)
            _remember(self._stand_ins, key, found)
        return None if found is None else self.any(found, at_us)

    def _named(self, tool: PricedTool, named: str, at_us: int) -> str | None:
        try:
            other = self.any(named, at_us)
        except (UnknownModel, NotFound):
            return None
        if tool.rates is not None and other.rates is not None:
            if tool.rates.stated:
                # Nothing is known of it, so whoever wrote the policy has judged.
                return named
            able = _able(self._registry.get(tool.model or tool.id), self._registry.get(named))
            dearer = (
                other.rates.base.input > tool.rates.base.input
                or other.rates.base.output > tool.rates.base.output
            )
            return named if able and not dearer else None
        if tool.unit_rate is not None and other.unit_rate is not None:
            same_unit = self.unit(tool.id) == self.unit(other.id)
            return named if same_unit and other.unit_rate <= tool.unit_rate else None
        return None

    def _picked(self, tool: PricedTool, level: str | None) -> str | None:
        """Pick a stand-in for a prompt of some complexity; the cheapest where nothing is known."""
        if level is not None and tool.model is not None and tool.rates is not None:
            able = [model.id for model in able_stand_ins(self._registry, tool.model)]
            wanted = self._registry.get(tool.model)
            selector = ModelSelector(self._registry, providers=(wanted.provider,))
            choice = selector.select(Called(level), allowed=able, asked=tool.model)
            if choice.model is not None:
                return choice.model
        return self._cheapest(tool)

    def _cheapest(self, tool: PricedTool) -> str | None:
        if tool.model is None:
            return None
        if tool.rates is None:
            return self._cheapest_by_unit(tool)
        return next(iter(self.cheaper_models(tool.model)), None)

    def cheaper_models(self, model_id: str) -> list[str]:
        """Name a few cheaper models of the same provider that are able to do the same."""
        found = self._cheaper.get(model_id)
        if found is None:
            known = self._model_id(model_id) is not None
            cheapest = cheapest_able(self._registry, model_id) if known else None
            found = [] if cheapest is None else [cheapest.id]
            _remember(self._cheaper, model_id, found)
        return found

    def _cheapest_by_unit(self, tool: PricedTool) -> str | None:
        """Name the cheapest model with a record that is paid for by the same unit."""
        record = self._tools[tool.id]
        able = [
            other
            for other in self._tools.values()
            if other.id != tool.id
            and (other.category, other.unit) == ("llm", record.unit)
            and other.tier != "premium"
            and other.cost_per_unit <= record.cost_per_unit
            and self._registry.allows(other.id)
        ]
        return min(able, key=lambda other: (other.cost_per_unit, other.id)).id if able else None


def stated_rates(
    policy: Policy,
    unknown: UnknownModel,
    model_id: str,
    at_us: int,
    book: PriceBook,
    provider: str | None = None,
) -> Rates:
    """Return the rates that a policy states for a model without a price."""
    ceiling = policy.unpriced_ceiling
    return unpriced(
        unknown,
        model_id,
        policy=policy.on_unpriced,
        ceiling_nanousd=None if ceiling is None else to_nano(ceiling, round_up=True),
        provider=provider,
        book=book,
        at_us=at_us,
    )


def _able(wanted: Model, other: Model) -> bool:
    """Say whether a model that somebody named can do the same kind of work."""
    return other.enabled and wanted.capabilities & _KINDS <= other.capabilities | {"audio"}


def _remember(cache: dict[Any, Any], key: Any, value: Any) -> None:
    """Keep an answer; a full cache starts anew rather than growing with what callers send."""
    if len(cache) >= _REMEMBERED_MAX:
        cache.clear()
    cache[key] = value
