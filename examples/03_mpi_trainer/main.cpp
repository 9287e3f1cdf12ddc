// A trainer over MPI, with a network and gradients of its own, that lets syncnorm normalize over
// all ranks: each has a part of every batch, and the result is that of one rank with the whole
// batches.
//
//   03_mpi_trainer digits.csv
//   mpirun -n 4 03_mpi_trainer digits.csv
//   mpirun -n 4 03_mpi_trainer digits.csv --local    # not synchronized, to compare
//
// --batch N: samples of all ranks together; --epochs N; --save FILE: the network and the losses.
#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "digits.hpp"
#include "network.hpp"
#include "syncnorm/mpi.hpp"

namespace {

constexpr double kLearningRate = 0.05, kMomentum = 0.9;
constexpr std::size_t kTestSamples = 360;

struct Settings {
  std::string data = "digits.csv", save;
  std::size_t batch = 64, epochs = 5;
  bool local = false;
};

Settings parse(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const bool more = i + 1 < argc;
    if (word == "--local") {
      settings.local = true;
    } else if (word == "--batch" && more) {
      settings.batch = std::stoul(argv[++i]);
    } else if (word == "--epochs" && more) {
      settings.epochs = std::stoul(argv[++i]);
    } else if (word == "--save" && more) {
      settings.save = argv[++i];
    } else {
      settings.data = word;
    }
  }
  return settings;
}

Digits chosen(const Digits& digits, const std::vector<std::size_t>& indices) {
  Digits part;
  for (const std::size_t i : indices) {
    const double* const image = &digits.images[i * kPixels];
    part.images.insert(part.images.end(), image, image + kPixels);
    part.labels.push_back(digits.labels[i]);
  }
  return part;
}

struct World {
  World() {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
  }

  // This rank's part of a batch. The parts are to each other as 1 : 2 : 3 ..., and of a small batch
  // the first ranks get nothing. They take part in the step all the same.
  std::vector<std::size_t> part(const std::vector<std::size_t>& batch) const {
    const auto begin = [&](int r) {
      return batch.begin() +
             static_cast<std::ptrdiff_t>(batch.size()) * r * (r + 1) / size / (size + 1);
    };
    return {begin(rank), begin(rank + 1)};
  }

  int rank = 0, size = 1;
};

// The gradients of the parameters become their sums over the ranks; returns that of the loss.
double sum_over_ranks(const std::vector<Parameter*>& parameters, double loss) {
  Values flat{loss};
  for (const Parameter* p : parameters) {
    flat.insert(flat.end(), p->gradient.begin(), p->gradient.end());
  }
  MPI_Allreduce(MPI_IN_PLACE, flat.data(), static_cast<int>(flat.size()), MPI_DOUBLE, MPI_SUM,
                MPI_COMM_WORLD);
  const double* sum = flat.data() + 1;
  for (Parameter* p : parameters) {
    std::copy_n(sum, p->gradient.size(), p->gradient.begin());
    sum += p->gradient.size();
  }
  return flat[0];
}

// The mean loss of a batch, of which `mine` is this rank's part.
double step(Network& network, const Digits& mine, std::size_t batch_size) {
  Values logits = network.forward(mine.images, true);
  const double part = cross_entropy(logits, mine.labels, batch_size);
  network.backward(logits);
  const double loss = sum_over_ranks(network.parameters(), part);
  for (Parameter* p : network.parameters()) {
    for (std::size_t i = 0; i < p->value.size(); ++i) {
      p->velocity[i] = kMomentum * p->velocity[i] + p->gradient[i];
      p->value[i] -= kLearningRate * p->velocity[i];
    }
  }
  return loss;
}

// The loss of each step.
Values train(Network& network, const Digits& digits, const Settings& settings, const World& world) {
  Random random(1);  // every rank draws the same order
  std::vector<std::size_t> order(digits.size() - kTestSamples);
  std::iota(order.begin(), order.end(), kTestSamples);
  Values losses;
  for (std::size_t epoch = 0; epoch < settings.epochs; ++epoch) {
    std::shuffle(order.begin(), order.end(), random);
    for (auto at = order.begin(); at != order.end();) {
      const std::size_t left = static_cast<std::size_t>(order.end() - at);
      const auto begin = at;
      at += static_cast<std::ptrdiff_t>(std::min(settings.batch, left));
      const std::vector<std::size_t> batch(begin, at);
      losses.push_back(step(network, chosen(digits, world.part(batch)), batch.size()));
    }
  }
  return losses;
}

// Of the digits that were kept back; by the running statistics, which need no other rank.
double accuracy(Network& network, const Digits& digits) {
  std::vector<std::size_t> kept(kTestSamples);
  std::iota(kept.begin(), kept.end(), std::size_t{0});
  const Digits test = chosen(digits, kept);
  const Values logits = network.forward(test.images, false);
  double right = 0;
  for (std::size_t i = 0; i < test.size(); ++i) {
    const auto row = logits.begin() + static_cast<std::ptrdiff_t>(i * kClasses);
    const auto found = std::max_element(row, row + kClasses) - row;
    right += static_cast<std::size_t>(found) == test.labels[i] ? 1 : 0;
  }
  return right / static_cast<double>(test.size());
}

void save(const std::string& path, Network& network, const Values& losses) {
  std::ofstream file(path);
  file.precision(17);
  const auto write = [&](const std::string& name, const Values& values) {
    file << name;
    for (const double value : values) file << ' ' << value;
    file << '\n';
  };
  for (const Parameter* p : network.parameters()) write(p->name, p->value);
  for (const Parameter* p : network.running_statistics()) write(p->name, p->value);
  write("losses", losses);
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

void run(const Settings& settings) {
  const Digits digits = read_digits(settings.data);
  if (digits.size() <= kTestSamples || settings.batch == 0) {
    throw std::runtime_error(settings.data + " holds " + std::to_string(digits.size()) +
                             " digits, expected more than " + std::to_string(kTestSamples) +
                             " (see export_digits.py); and --batch of at least 1");
  }
  const World world;
  // [doc: mpi]
  auto comm = syncnorm::mpi_communicator(settings.local ? MPI_COMM_SELF : MPI_COMM_WORLD);
  Random random(0);  // the same parameters on every rank
  Network network(random, comm);
  // [end]
  const Values losses = train(network, digits, settings, world);
  if (world.rank != 0) return;
  std::printf("ranks: %d, steps: %zu, loss: %.4f, test accuracy: %.1f%%\n", world.size,
              losses.size(), losses.empty() ? 0 : losses.back(), 100 * accuracy(network, digits));
  if (!settings.save.empty()) save(settings.save, network, losses);
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  try {
    run(parse(argc, argv));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
  }
  MPI_Finalize();
  return EXIT_SUCCESS;
}
