#!/bin/bash
# Goes on with the long trainings of an earlier run.sh from its checkpoints (long-0.tar, …), then with further seeds.
#   experiments/gpu/continue.sh PREVIOUS [options of run.sh]
previous=${1:?name the folder with long-0.tar, … of the earlier start}
shift
exec "$(dirname "$0")/run.sh" --only long --previous "$(cd "$previous" && pwd)" "$@"
