"""What a trial reserves of a node."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, field_validator

from condense.config.strict import Strict

A_LITTLE = 0.001  # reserved of a custom resource, which only marks a kind of node


class Resources(Strict):
    """What a trial reserves. The work is done by the engine that all trials of a device share."""

    cpus_per_trial: float | None = Field(
        None,
        gt=0,
        description="logical CPUs; an engine on a CPU uses what its trials have. Left out: all there are, divided by "
        "`max_concurrent`; with a GPU, a quarter of one",
    )
    gpus_per_trial: float = Field(0.0, ge=0, le=1, description="share of a GPU: 0, or 1/k for k trials on each GPU")
    node_kind: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.-]*$",
        description="a custom resource of Ray that nodes of one kind have (`ray start --resources '{\"a100\": 1}'`, `resources` "
        "of a node type in a cluster's file): trials and the confirmation run on such nodes only. Left out: on any",
    )

    @field_validator("node_kind")
    @classmethod
    def _is_custom(cls, value: str | None) -> str | None:
        if value in ("CPU", "GPU", "memory", "object_store_memory"):
            raise ValueError("must be a custom resource, not Ray's own")
        return value

    def of_trial(self, node_cpus: Sequence[float], max_concurrent: int) -> dict[str, float]:
        """The resources that a trial requests from Ray. Above 1, Ray takes whole numbers. `node_cpus`: CPUs of each node."""
        cpus = self.cpus_per_trial
        if cpus is None:
            cpus = 0.25 if self.gpus_per_trial else min(sum(node_cpus) / max_concurrent, max(node_cpus))
            cpus = float(int(cpus)) if cpus > 1 else max(0.01, int(cpus * 1000) / 1000)
            # A trial's CPUs are on one node: fewer, if otherwise the nodes' remainders would leave some trials waiting.
            while cpus > 1 and sum(int(of / cpus) for of in node_cpus) < max_concurrent:
                cpus -= 1
        kind = {self.node_kind: A_LITTLE} if self.node_kind else {}
        return {"CPU": cpus} | ({"GPU": self.gpus_per_trial} if self.gpus_per_trial else {}) | kind
