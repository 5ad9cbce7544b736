// How a display with a picture fills its node.

export const BOX = {
  boxSizing: 'border-box',
  contain: 'size',
  display: 'flex',
  flexDirection: 'column',
  flex: '1 1 auto',
  gap: '4px',
  minHeight: '300px',
  width: '100%',
  overflow: 'auto',
  padding: '6px',
  font: '11px/1.5 sans-serif',
  color: 'var(--input-text)',
  background: 'var(--comfy-input-bg)',
  borderRadius: '6px'
}
