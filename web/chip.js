// How a small button in a display looks.

export const CHIP = {
  margin: '2px 4px 2px 0',
  padding: '0 6px',
  font: 'inherit',
  color: 'inherit',
  background: 'transparent',
  border: '1px solid var(--border-color, #555)',
  borderRadius: '8px',
  cursor: 'pointer'
}
