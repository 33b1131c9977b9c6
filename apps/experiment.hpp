// Everything an experiment includes, in one line; precompiled by the target ttr::precompiled.
#pragma once
#include <fmt/core.h>
#include <ttr/apps/byte_windows.hpp>
#include <ttr/apps/plot.hpp>
#include <ttr/apps/text.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/random.hpp>
#include <ttr/layers/describe.hpp>
#include <ttr/layers/fold.hpp>
#include <ttr/layers/language_model.hpp>
#include <ttr/layers/plan.hpp>
#include <ttr/layers/recipes.hpp>
#include <ttr/layers/vocabulary.hpp>
#include <ttr/optim/schedule.hpp>
#include <ttr/optim/trainer.hpp>
