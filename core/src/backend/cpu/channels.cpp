#include "backend/cpu/channels.hpp"

#include "backend/cpu/geometry.hpp"
#include "backend/cpu/parameters.hpp"
#include "math/channel.hpp"
#include "math/normalization.hpp"
#include "math/statistics.hpp"
#include "math/wire.hpp"

namespace syncnorm::cpu {
namespace {

Statistics statistics(const Problem& problem, const Exchange& exchange, std::int64_t i) {
  return statistics_from(exchange.total, exchange.center_total, problem.c, i);
}

// invstd has the precision of the arithmetic type, whatever it is stored in.
double round_to_arithmetic(const Problem& problem, double value) {
  return is_float64_arithmetic(problem) ? value : static_cast<double>(static_cast<float>(value));
}

double weight_of(const Problem& problem, const syncnorm_vector& weight, std::int64_t i) {
  return applied_weight(load_or(weight, i, 1.0), problem.in_place());
}

// origin: what is taken from each value, the mean of x in the forward pass.
ForwardConstants constants(const Problem& problem, double origin, double invstd, double gamma,
                           double beta) {
  if (is_float64_arithmetic(problem)) return {origin, 0.0, invstd * gamma, beta};
  return {static_cast<double>(mean_hi<float>(origin)), static_cast<double>(mean_lo<float>(origin)),
          invstd * gamma, beta};
}

// Writes saved for one channel, if wanted, and returns the channel's constants.
ForwardConstants finish_channel(const Problem& problem, const syncnorm_forward_args& args,
                                std::int64_t i, const Statistics& statistics) {
  const auto [exact, gate] =
      inverse_deviation(statistics.var, problem.options.eps, problem.options.eps_mode);
  const double invstd = round_to_arithmetic(problem, exact);
  if (args.saved != nullptr) {
    args.saved[Saved::mean(problem.c, i)] = statistics.mean;
    args.saved[Saved::invstd(problem.c, i)] = invstd;
    args.saved[Saved::gate(problem.c, i)] = gate;
  }
  return constants(problem, statistics.mean, invstd, weight_of(problem, args.weight, i),
                   load_or(args.bias, i, 0.0));
}

// What makes xhat of the values that the backward pass reads.
Standardization standardization_of(const Problem& problem, const syncnorm_backward_args& args,
                                   std::int64_t i) {
  if (problem.in_place())
    return standardization_in_place(weight_of(problem, args.weight, i), load_or(args.bias, i, 0.0));
  return {args.saved[Saved::mean(problem.c, i)], args.saved[Saved::invstd(problem.c, i)]};
}

}  // namespace

double count_values(const Problem& problem, const std::uint8_t* mask) {
  const std::int64_t values = problem.values_per_channel();
  if (mask == nullptr) return static_cast<double>(values);
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < values; ++i) count += mask[i] != 0;
  return static_cast<double>(count);
}

void write_wire_header(const Problem& problem, double count, double hash, double* wire) {
  const double weight =
      rank_weight(problem.options.weighting, count, static_cast<double>(problem.n));
  write_forward_header(weight, count, hash, wire);
}

void write_wire(const Problem& problem, ChannelRange range, const Moments* moments, double* wire,
                double* local_var) {
  const double weight = wire[ForwardWire::kWeight];
  for (std::int64_t i = range.begin; i < range.end; ++i) {
    write_moments(moments[i], weight, problem.c, i, wire);
    if (local_var != nullptr) local_var[i] = variance(moments[i]);
  }
}

void write_center_header(const Problem& problem, const Exchange& exchange, double* center_wire) {
  write_hash(center_hash(exchange.wire[ForwardWire::kHash]), CenterWire::kHash, center_wire);
  if (problem.c % 2 != 0) center_wire[CenterWire::kHeader + problem.c] = 0.0;
}

void write_center(const Problem& problem, ChannelRange range, const Exchange& exchange,
                  const double* local_var, double* center_wire) {
  for (std::int64_t i = range.begin; i < range.end; ++i)
    center_wire[CenterWire::kHeader + i] =
        center_entry(exchange.wire, exchange.total, local_var[i], problem.c, i);
}

void write_saved_header(const Problem& problem, const Exchange& exchange, double* saved) {
  saved[Saved::kRankFactor] = rank_factor_from(exchange.wire, exchange.total);
  saved[Saved::kHash] = saved_hash(exchange.wire[ForwardWire::kHash], problem.options.tag);
}

void forward_constants(const Problem& problem, ChannelRange range,
                       const syncnorm_forward_args& args, const Exchange& exchange,
                       ForwardConstants* forward) {
  for (std::int64_t i = range.begin; i < range.end; ++i)
    forward[i] = finish_channel(problem, args, i, statistics(problem, exchange, i));
}

void frozen_constants(const Problem& problem, const syncnorm_forward_args& args,
                      ForwardConstants* forward) {
  if (args.saved != nullptr) args.saved[0] = args.saved[1] = 0.0;
  for (std::int64_t i = 0; i < problem.c; ++i)
    forward[i] =
        finish_channel(problem, args, i, {load(args.running_mean, i), load(args.running_var, i)});
}

bool updates_running(const syncnorm_forward_args& args, const Exchange& exchange) {
  return args.running_mean.data != nullptr && exchange.total[ForwardWire::kCount] > 0;
}

void update_running(const Problem& problem, ChannelRange range, const syncnorm_forward_args& args,
                    const Exchange& exchange) {
  const std::int64_t batches =
      args.num_batches_tracked == nullptr ? 1 : next_batch(*args.num_batches_tracked);
  const double momentum = running_momentum(problem.options.momentum, batches);
  const double factor =
      variance_factor(problem.options.variance_factor, exchange.wire[ForwardWire::kCount],
                      exchange.total[ForwardWire::kCount], exchange.group_size);
  for (std::int64_t i = range.begin; i < range.end; ++i) {
    const Statistics batch = statistics(problem, exchange, i);
    store(args.running_mean, i, running_average(load(args.running_mean, i), batch.mean, momentum));
    store(args.running_var, i,
          running_average(load(args.running_var, i), batch.var * factor, momentum));
  }
}

void saved_constants(const Problem& problem, ChannelRange range, const syncnorm_backward_args& args,
                     ForwardConstants* forward) {
  for (std::int64_t i = range.begin; i < range.end; ++i)
    forward[i] = constants(problem, standardization_of(problem, args, i).origin,
                           args.saved[Saved::invstd(problem.c, i)],
                           weight_of(problem, args.weight, i), load_or(args.bias, i, 0.0));
}

void write_grad_wire_header(const syncnorm_backward_args& args, double hash, double* wire) {
  write_hash(following_hash(args.saved[Saved::kHash], hash), BackwardWire::kHash, wire);
}

void write_grad_wire(const Problem& problem, ChannelRange range, const syncnorm_backward_args& args,
                     const GradSums* sums, double* wire) {
  for (std::int64_t i = range.begin; i < range.end; ++i) {
    wire[BackwardWire::bias(problem.c, i)] = sums[i].bias;
    wire[BackwardWire::weight(problem.c, i)] =
        sums[i].weight * standardization_of(problem, args, i).unit;
  }
}

void backward_constants(const Problem& problem, ChannelRange range,
                        const syncnorm_backward_args& args, const Exchange& exchange,
                        BackwardConstants* backward) {
  for (std::int64_t i = range.begin; i < range.end; ++i) {
    const auto [scale, offset, slope] = gradient_coefficients(
        weight_of(problem, args.weight, i), args.saved[Saved::invstd(problem.c, i)],
        standardization_of(problem, args, i).unit, args.saved[Saved::gate(problem.c, i)],
        args.saved[Saved::kRankFactor], exchange.total[BackwardWire::bias(problem.c, i)],
        exchange.total[BackwardWire::weight(problem.c, i)]);
    backward[i] = {scale, offset, slope};
  }
}

void write_parameter_gradients(const Problem& problem, ChannelRange range,
                               const syncnorm_backward_args& args,
                               syncnorm_grad_reduction reduction, const Exchange& exchange) {
  const auto write = [&](const syncnorm_vector& vector, std::int64_t i, std::int64_t at) {
    if (vector.data == nullptr) return;
    store(vector, i,
          reduced_gradient(exchange.wire[at], exchange.total[at], reduction, exchange.group_size));
  };
  for (std::int64_t i = range.begin; i < range.end; ++i) {
    write(args.dbias, i, BackwardWire::bias(problem.c, i));
    write(args.dweight, i, BackwardWire::weight(problem.c, i));
  }
}

}  // namespace syncnorm::cpu
