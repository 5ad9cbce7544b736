"""Sample with ComfyUI and its ControlNets: `python controlnet_child.py JOB.pt RESULT.pt`, ComfyUI on PYTHONPATH."""

from __future__ import annotations

import sys
from typing import Any

import torch


def main(job_path: str, result_path: str) -> None:
    """Load a job, sample every case of it in ComfyUI and save the latents."""
    from comfy.cli_args import args

    args.cpu = True
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.model_patcher
    import comfy.ops
    import comfy.sample
    import comfy.supported_models
    from comfy_extras.nodes_controlnet import SetUnionControlNetType

    import nodes

    job = torch.load(job_path, weights_only=True)
    cpu = torch.device("cpu")

    def load_model(family: str, unet: dict[str, Any], state: dict[str, torch.Tensor]) -> Any:
        config = getattr(comfy.supported_models, family)(unet)
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model({}, device="cpu")
        model.diffusion_model.load_state_dict(state)
        return comfy.model_patcher.ModelPatcher(model, cpu, cpu)

    def load_control(entry: Any) -> Any:
        if isinstance(entry, str):
            return comfy.controlnet.load_controlnet(entry)
        kind = {"dtype": torch.float32, "device": cpu, "operations": comfy.ops.disable_weight_init}
        model = comfy.cldm.cldm.ControlNet(**entry["config"], **kind)
        model.load_state_dict(entry["state"])
        pooling = entry["global_average_pooling"]
        return comfy.controlnet.ControlNet(model, global_average_pooling=pooling, load_device=cpu)

    models = {name: load_model(**entry) for name, entry in job["models"].items()}
    controls = {name: load_control(entry) for name, entry in job["controls"].items()}

    def sample(case: dict[str, Any]) -> torch.Tensor:
        positive, negative = case["positive"], case["negative"]
        for use in case["uses"]:
            control = controls[use["control"]]
            if "type" in use:
                control = SetUnionControlNetType.execute(control, use["type"]).result[0]
            if "window" not in use:
                positive = nodes.ControlNetApply().apply_controlnet(positive, control, use["hint"], use["strength"])[0]
                continue
            apply = nodes.ControlNetApplyAdvanced().apply_controlnet
            positive, negative = apply(positive, negative, control, use["hint"], use["strength"], *use["window"])
        latent = case["latent"].clone()
        noise = comfy.sample.prepare_noise(latent, case["seed"])
        how = (case["steps"], case["cfg"], "euler", "normal")
        model = models[case["model"]]
        return comfy.sample.sample(model, noise, *how, positive, negative, latent, disable_pbar=True, seed=case["seed"])

    with torch.no_grad():
        torch.save({name: sample(case) for name, case in job["cases"].items()}, result_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
