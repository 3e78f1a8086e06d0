"""The command with a smaller plan for digits, so that a run takes seconds: ``python tests/quick.py evolve …``.

A run keeps its plan, so that the true command resumes and shows it.
"""

from dataclasses import replace

from kdzero_gp.tasks import TASKS


def quick_digits():
    """The task of digits with short trainings of few students."""
    task = TASKS["digits"]
    plan = task.plan
    quick = replace(plan, teacher_recipe=replace(plan.teacher_recipe, epochs=8), zoo_factors=(1.0,),
                    baseline_seeds=2, race=replace(plan.race, epochs=6))  # fmt: skip
    return replace(task, plan=quick)


if __name__ == "__main__":
    from kdzero_gp.cli import main

    TASKS["digits"] = quick_digits()
    main(prog_name="kdzero-gp")
