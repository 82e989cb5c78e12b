// Sets of digits, and the networks that learn them.
//   side     pixels a side
//   fit      of which the longer side of a drawing takes so many
//   byMass   whether it is the middle of its ink that stands in the middle, or that of its edges
//   hidden   units
//   last     epochs, of which the axis has every tick-th
//   every    batches between two looks at the test

const sets = {
  digits: { side: 8, fit: 8, byMass: false, hidden: 16, last: 60, tick: 10, every: 10 },
  mnist: { side: 28, fit: 20, byMass: true, hidden: 64, last: 20, tick: 5, every: 78 },
};
